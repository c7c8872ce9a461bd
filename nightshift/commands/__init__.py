"""The commands for people, `nightshift COMMAND`: a module each, and the modules that only they need.

A command's module has HELP (one line), EXAMPLE (command lines, one per line), add_arguments(parser) and
main(arguments). It imports nothing but the standard library, `nightshift.console.errors` and
`nightshift.commands.options` at its top, so that `--help` is quick.
"""
