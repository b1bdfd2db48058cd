"""Train, evaluate and ship models that find vulnerabilities in source code."""

__version__ = "0.1.0"
