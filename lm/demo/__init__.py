"""The demonstration: two targets, four divergences, two seeds; one table, pictures and a page.

Reading order: `study` (which runs), `workers` (two processes), `results` (what they measured),
`verdicts` (what must hold and what was found), `tables`, `figures`, `pictures`, `page`, `bars`,
`command` (all of it in order).
"""
