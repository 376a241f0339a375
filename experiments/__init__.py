"""The project's own claims, measured: what README.md and docs/ quote comes from here. No user needs it.

    what a paper says, on simulated patients    reproduce claims intervals costs maps
    time and memory                             bench gpu timing peers
    the pictures in docs/ideas.md               draw
"""
