"""Observers that come with the testbed, one file a format, for every driver: timeline (Perfetto), iterations (CSV),
explain (the life of one job), schedule (what happened when, for pictures), live_feed (events for the page), inter_token
(gaps, from an iteration log).
"""
