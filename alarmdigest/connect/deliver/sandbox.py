"""The environment in which templates run: Jinja's sandbox, and the limits at each step.

Jinja's own sandbox refuses what reaches the interpreter (``''.__class__.__mro__``), but lets a
template compute for ever, or fill the memory, without writing anything. So each loop, filter, call
and text that is put together is wrapped before it is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import BaseLoader, StrictUndefined, TemplateSyntaxError, nodes
from jinja2.environment import Template
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from alarmdigest.connect.deliver import template_limits as limits
from alarmdigest.connect.deliver.shown import Alarm, Link, Section
from alarmdigest.connect.deliver.template_filters import built_in_filters

_METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(
        (
            *("capitalize", "count", "endswith", "find", "isdigit", "lower", "lstrip", "partition"),
            *("removeprefix", "removesuffix", "rpartition", "rstrip", "split", "splitlines"),
            *("startswith", "strip", "title", "upper"),
        )
    ),
    dict: frozenset(("get", "items", "keys", "values")),
}
_JINJAS_OWN = (
    *(BlockReference, Cycler, Joiner, LoopContext, Macro, Namespace, TemplateReference),
    *(Alarm, Link, Section),
)
# Names that nobody can write in a template.
_WITHIN_LIMITS, _EACH = "within limits", "each step"
_REFUSED = {
    nodes.Import: "import is not offered: write the macro into the template, or include a file",
    nodes.FromImport: "import is not offered: write the macro into the template, or include a file",
    nodes.ScopedEvalContextModifier: "autoescape cannot be changed: HTML is always escaped",
}


class Sandbox(ImmutableSandboxedEnvironment):
    """Escapes in templates that end in .html; a name that is not there is an error."""

    # Those that can make something large of little.
    intercepted_binops = frozenset(("+", "*", "**", "%"))
    concat = staticmethod(limits.concat)

    def __init__(self, loader: BaseLoader) -> None:
        super().__init__(
            loader=loader,
            autoescape=lambda name: bool(name) and str(name).endswith(".html"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.filters = {
            **built_in_filters(),
            _WITHIN_LIMITS: limits.within_limits,
            _EACH: limits.each,
        }
        del self.globals["lipsum"]

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, methods in _METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return isinstance(obj, _JINJAS_OWN) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Jinja would offer its own ``"".format``, which takes widths such as ``{:1000000000}``."""

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        limits.check_time()
        return limits.within_limits(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        limits.check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def get_template(self, *args: Any, **kwargs: Any) -> Template:
        limits.check_time()  # an include
        return super().get_template(*args, **kwargs)

    def select_template(self, *args: Any, **kwargs: Any) -> Template:
        limits.check_time()
        return super().select_template(*args, **kwargs)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        for kind, why in _REFUSED.items():
            for node in source.find_all(kind):
                raise TemplateSyntaxError(why, node.lineno, *args[:2])
        return super()._generate(_Wrapper().visit(source), *args, **kwargs)


class _Wrapper(NodeTransformer):
    """``for a in b`` becomes ``for a in b|each step``, and so on."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _EACH)
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        # That of a block has nothing before it; its result is written, and counted there.
        return node if node.node is None else _filtered(node, _WITHIN_LIMITS)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _WITHIN_LIMITS)


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(
        node, name, [], [], None, None, lineno=node.lineno, environment=node.environment
    )
