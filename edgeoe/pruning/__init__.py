"""Structured pruning of any network that runs: which channels are coupled, and networks without some of them.

A library of its own: of edgeoe it imports `errors` and `progress` alone. From the bottom up:

slots, union_find, sources, state, rules, the rules of kinds of layers, trace: which channels the forward pass couples.
groups, removal, trial, verify: which of them can be pruned, and the network without them.
macs, arithmetic, allocation, prune: how many each group loses for a share of MACs or parameters.
kinds, savings: what is alike, and what pruning half of a group saves.
names: names of layers in messages.
"""
