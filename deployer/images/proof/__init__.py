"""What is inside an image, and whether it is what was pinned: a program of its own, which needs Python alone.

It is copied into images and run there, by their Python or by one that is mounted; it imports nothing of deployer.

    python3 -I /somewhere/proof look [--root DIR]     prints the facts of a file system as JSON
    python3 -I /somewhere/proof prove EXPECT.json     compares them with the pins; exit 1, a line for each problem
"""
