"""Readers of traces: one format a file, and what is common to all of them.

Read: table (rows of cells), source (bytes to blocks of text), csv_rows, csv_arrow, json_rows, columnar, servegen (one
format each), columns and formats (which column is what), parse, dates and block_ids (cells to numbers), units (what a
number of a clock means), order (rows that are out of order), rows (typed and validated), probe, read. What they tell of
it is workload/reading.py.
"""
