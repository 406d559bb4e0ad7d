"""The web demo: a page on which two networks label the same photo or video, side by side.

`uploads` reads what visitors bring, `studio` holds the networks and what they saw, `figures` puts that into words and bars,
`page` lays it out with Gradio, `guard` stands before the server, and `server` starts and ends it.
"""
