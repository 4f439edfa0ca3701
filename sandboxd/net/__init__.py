"""Networks: one bridge for all sandboxes, a tap for each, and the rules between them and the world.

    manager      the door: start, attach, release, reconcile, close (async)
    host         the same, step by step, in the one thread that talks to the kernel
    settings     what may be configured; lease: what a sandbox gets
    addressing   slot to address, MAC and tap; subnet: which network is free
    resolver     the host's DNS servers as a guest can reach them
    rules        the nftables table; conntrack: flows that a guest leaves behind
    links        bridge and taps; sysctl: what forwarding needs, and its way back
    reservations the host's side of published ports; state: what a restart must find
    diagnosis    what `doctor` says

Nothing here imports pyroute2 or libnftables before `begin` or the first networked sandbox.
"""
