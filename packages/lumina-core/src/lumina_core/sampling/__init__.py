"""From noise to data: what a request says, the way it goes, what is known beforehand, who watches, and the way back."""
