"""How well did a detector do? Readers of labels and alarms, the rules, the figures."""
