"""The providers that come with pyinfrakit: one a file, each an entry point in the group ``pyinfrakit.providers``."""
