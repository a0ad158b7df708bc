"""What it costs: parameters, memory, arithmetic, time and money of any configuration, before anything is bought.

In reading order: `account` (parameters, memory and arithmetic), `memory` (what training keeps, to the byte, and what
paging needs), `attention_cost` (CCA beside its relatives), `devices` (what a device can do, and sizes that MI300X
likes), `published` (decoding as others measured it, beside that), `schedule` (time and cost of the report's stages).
"""
