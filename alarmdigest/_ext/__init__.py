"""The compiled core; its sources are in ``ext/``, its types in the ``.pyi`` files here."""
