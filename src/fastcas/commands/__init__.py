"""The commands, a module for each section of the help: arguments, calls of the engine, output."""
