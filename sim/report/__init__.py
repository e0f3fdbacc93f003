"""Reports on finished runs. Read: run (the data), table, document (JSON and files), plot, style, provenance."""
