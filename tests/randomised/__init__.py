"""Checks on random inputs: python -m tests.randomised --help.

    programs    random programs of 5 to 40 ops, with hooks, several backwards, interruptions and reuse of graphs
    nets        random small networks, trained, copied and pickled on the way
    runs        random damage to the folder of a training run, which is then resumed or sampled from
    models      random damage to a folder that save_pretrained wrote, which is then loaded
    kills       signals to a training run at random instants

A trial is a function of the seed, the part and the number of the trial, so that the options printed with a fault repeat
it. Of the part kills, only the delays before the signals are repeated.
"""
