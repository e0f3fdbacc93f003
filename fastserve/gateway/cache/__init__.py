"""Cache of answers, off by default: exact repetitions of deterministic requests are answered without an upstream.

Read: settings, canonical (which requests, and what makes two of them the same), entry (a recorded answer and its
replay), memory, disk and redis (stores), guarded (a store that fails is a miss), stage.
"""
