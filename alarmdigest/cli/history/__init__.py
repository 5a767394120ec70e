"""What the streams tell of one user: ``input_scan`` reads the input, ``found_digests`` what was
published, ``story`` applies the rule to it, and ``telling`` puts it into words."""
