"""Several processes that learn as one: how they are started, spoken to and watched. Knows no algorithm."""
