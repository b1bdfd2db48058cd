"""Settings: one declaration each, from which flags, files and documentation derive."""
