"""Who says how good an answer is: reward models, rules, judges, and several of them together."""
