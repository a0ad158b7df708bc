"""The chat server: OpenAI's protocol over the engine, for any number of askers.

In reading order: `service` (the engine in a thread of its own), `protocol` with `checks` and `messages` (what a
request may say, or an error that names the field), `formats` (messages to a prompt, text to a reply), `telling` (an
answer in pieces, each as soon as it is certain), `app` (what is at which path), `server` (connections).
"""
