"""The Operator interface: our own, for people and their tools. InfraKit's programs do not know it."""
