"""The systems that fastcas is compared with, as programs of ours that call theirs."""
