"""Perplexity of a folder that `transformers` can serve: `python perplexity.py FOLDER TEXT WINDOW`.

Runs where torch and transformers are, as the converters do. It counts as llama-perplexity does, so that numbers of
both can be compared: the text is cut into windows of WINDOW tokens, the first token of each is the one that the model
wants at the beginning, if it wants one, and the second half of each window is scored. The last line is JSON: the mean
negative log-likelihood of each window in nats, and the standard error of their mean over tokens.
"""

import json
import math
import pathlib
import sys


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, text, window = sys.argv[1], pathlib.Path(sys.argv[2]).read_text(encoding="utf-8"), int(sys.argv[3])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    tokens = tokenizer(text)["input_ids"]
    bos = [tokenizer.bos_token_id]
    first = bos if tokens[:1] == bos else []
    scores = []
    for start in range(0, len(tokens) - window + 1, window):
        ids = torch.tensor([first + tokens[start + len(first) : start + window]])
        with torch.inference_mode():
            logits = model(ids).logits[0, window // 2 : -1].float()
        scores.append(torch.nn.functional.cross_entropy(logits, ids[0, window // 2 + 1 :], reduction="none"))
        print(f"{len(scores)}/{len(tokens) // window} windows", flush=True)
    if not scores:
        sys.exit(f"the text has {len(tokens)} tokens, a window {window}")
    every = torch.cat(scores).double()
    windows = [round(one.double().mean().item(), 6) for one in scores]
    error = every.std().item() / math.sqrt(len(every))
    print("PERPLEXITY " + json.dumps({"windows": windows, "error": error}))


if __name__ == "__main__":
    main()
