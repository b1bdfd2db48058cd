"""Running a command on a Ray cluster through its Jobs API instead of here."""
