"""Whether a new result still says what a baseline said: drift, in either direction, beyond a tolerance."""
