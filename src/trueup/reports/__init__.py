"""Run folders as pages for people: one HTML file that needs nothing else, a JSON record, and pictures."""
