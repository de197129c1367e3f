"""The exit statuses of commands that did not do what they were told; 0 is the other one."""

FAILED = 1

WRONG_USAGE = 2
"""The exit status of a process that cannot start like this; starting it again changes nothing."""
