"""What every test process starts from, whatever started it."""

import os
import signal

import torch

# One thread for each: on a busy machine several wait for each other longer than they compute.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # and for the programs that the tests start

# A shell lets what it starts in the background ignore Ctrl-C; the programs that the tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
