"""What happened and when: stages of a start, logs of a process, a trace that Perfetto opens."""
