"""`python -m agentguard.cli`."""

from agentguard.cli.root import main

main()
