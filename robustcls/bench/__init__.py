"""Speed on this machine: contestants in processes of their own, taking turns, against the limit of the arithmetic."""
