"""Every sentence that is made from the evidence, for pages, command line, model card and API alike.

One file for each part of the evidence, over the names and numbers of `wording.py`. Each function takes the plain
documents of a run as they are stored (`report.py` has their types) and gives a sentence, or a frozen dataclass that
holds the sentence in `text` beside the parts it is made of. So no caller has to take a sentence apart again: names of
columns may contain any character. No torch and no numpy, because the API imports this.
"""
