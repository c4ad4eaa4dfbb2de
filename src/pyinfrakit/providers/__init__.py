"""The providers that come with pyinfrakit. Each is an entry point in the group ``pyinfrakit.providers``."""
