"""What comparing two networks takes: records, formula weights, official checkouts, curves, the report's page."""
