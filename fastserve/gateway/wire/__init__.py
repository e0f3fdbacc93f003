"""Over the wire to an upstream and back, byte for byte. Read: headers (what is passed on), exchange (one request and
its answer), watch (what takes too long), endings (what a client is told when an answer breaks off), passed (the answer
on its way to the client).
"""
