"""One file for each family of operators; every file enters its rows in the table."""
