"""A language model that is small enough to list all it can say, in the form that trainers expect.

The policy's law after every prefix is a multiple of 1/8, and a completion has at most two tokens.
So 64 completions of a prompt, each as often as its probability says, *are* the policy: what a
trainer computes on them is an expectation, whatever baselines and groups it uses.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

# One letter is one token. The end token also pads, and stands inside a prompt: masks made by
# comparing with the padding token lose it.
LETTERS, END, LIMIT = "aebc", 1, 2
# Of unequal lengths, so that two of three are padded. No letter is repeated from the start on: to
# rotary positions `a` and `aa` are one prefix.
PROMPTS: tuple[str, ...] = ("ab", "bca", "ceab")
FAMILIES = ("llama", "gpt2")
GROUP = 64
_EIGHTHS = ((1, 1, 2, 4), (1, 2, 2, 3), (1, 1, 3, 3))
BODIES = [i for i in range(len(LETTERS)) if i != END]

COMPLETIONS: tuple[tuple[int, ...], ...] = (
    (END,),
    *((first, second) for first in BODIES for second in range(len(LETTERS))),
)
LogScore = Callable[[Tensor, Tensor], Tensor]


class TinyProblem:
    """What a step is given: a base on disk, prompts, a reward, and a policy to start from.

    Parameters
    ----------
    folder
        Where the base and its tokenizer are written.
    target
        ``reward``: P = ref exp(reward / beta). ``verifier``: P = ref where the reward, 0 or 1, is
        1. Or a function of log ref and the rewards, both (prompts, completions), that gives log P.
    family
        ``llama``, with rotary positions, or ``gpt2``, with a table of positions.

    Attributes
    ----------
    prompts
        Three texts, of two, three and four tokens.
    beta
        The price of a nat of KL(policy‖base).
    group
        The number of completions of a prompt that are the policy; a step takes as many of each.
    max_new_tokens
        The longest completion.
    """

    prompts = PROMPTS
    beta = 0.5
    group = GROUP
    max_new_tokens = LIMIT

    def __init__(
        self, folder: Path | str, *, target: str | LogScore = "reward", family: str = "llama"
    ) -> None:
        if isinstance(target, str) and target not in ("reward", "verifier"):
            raise ValueError(f"target is {target!r}: there are reward, verifier, or a function")
        if family not in FAMILIES:
            raise ValueError(f"family is {family!r}: there are {', '.join(FAMILIES)}")
        self.folder, self.target, self.family = str(folder), target, family
        if Path(folder).exists() and (not Path(folder).is_dir() or any(Path(folder).iterdir())):
            raise ValueError(f"{folder} is not empty: the tiny model needs a folder of its own")
        laws = _laws(torch.Generator().manual_seed(1))
        network = _network(family)
        _speak(network, _logits(torch.Generator().manual_seed(2)))
        self._base = _weights_of(network)
        network.save_pretrained(folder)
        _tokenizer().save_pretrained(folder)

        # The policy is the base with another last layer.
        _speak(network, laws.log())
        self._policy = _weights_of(network)
        self._counts = dict.fromkeys(PROMPTS, 0)
        self._of_prompt = {
            prompt: _as_often_as_it_is_said(law) for prompt, law in zip(PROMPTS, laws, strict=True)
        }
        self.started: nn.Module | None = None

    # ------------------------------------------------------------------ for a step

    def start(self, model: Any) -> Any:
        """Give a model, which was loaded from `folder`, the policy's weights and its samples.

        Its `generate` then answers each prompt with `group` completions, each as often as its
        probability says, in an order of no meaning.

        Parameters
        ----------
        model
            Of transformers, as the trainer holds it; its weights are changed in place.

        Returns
        -------
        model
            The same.
        """
        try:
            _ = model.load_state_dict(self._policy)
        except RuntimeError as error:
            raise ValueError(
                f"start() was given a {type(model).__name__} with other weights than those of the "
                "model in problem.folder: pass the model itself, before it is wrapped, and without "
                "adapters"
            ) from error
        model.generate, self.started = self._generate, model
        return model

    def reward(self, completions: Sequence[Any], **_: Any) -> list[float]:
        """Return the reward of each completion, a text; its end token may have been left out."""
        bodies = [str(text).replace(LETTERS[END], "") for text in completions]
        if strange := set("".join(bodies)) - set(LETTERS):
            raise ValueError(
                f"a completion holds {min(strange)!r}: the tiny model writes {', '.join(LETTERS)} "
                "alone, and its tokenizer in problem.folder decodes them to nothing else"
            )
        return [self._value(body) for body in bodies]

    @property
    def batch(self) -> list[tuple[list[int], list[int]]]:
        """Prompt and completion, as token ids, of all that `generate` answers: 64 a prompt."""
        return [(ids_of(prompt), ids) for prompt in PROMPTS for ids in self._of_prompt[prompt]]

    @property
    def log_z(self) -> list[float]:
        """Return log Z of each prompt, in nats, exactly."""
        return torch.logsumexp(self.log_score, 1).tolist()

    # ------------------------------------------------------------------ for a judge

    @property
    def policy_weights(self) -> Mapping[str, Tensor]:
        """Return the weights that `start` gives, by name."""
        return self._policy

    def policy(self) -> Any:
        """Return the policy in float64."""
        return _wide(self.family, self._policy)

    def base(self) -> Any:
        """Return the base in float64."""
        return _wide(self.family, self._base)

    @cached_property
    def rewards(self) -> Tensor:
        """The reward of every completion, shape (prompts, completions)."""
        texts = ["".join(LETTERS[i] for i in ids) for ids in COMPLETIONS]
        row = torch.tensor(self.reward(texts), dtype=torch.float64)
        return row.expand(len(PROMPTS), -1)

    @cached_property
    def log_score(self) -> Tensor:
        """Log P of every completion in nats, shape (prompts, completions)."""
        with torch.no_grad():
            laws = log_laws(self.base())
        log_base = torch.stack([sequence_log_probs(*law) for law in laws])
        if self.target == "reward":
            return log_base + self.rewards / self.beta
        if self.target == "verifier":
            return log_base.masked_fill(self.rewards == 0, -torch.inf)
        log_score = self.target(log_base, self.rewards)  # pyright: ignore[reportCallIssue]
        if log_score.shape != log_base.shape or not (log_score < torch.inf).all():
            raise ValueError(
                f"the target returned shape {tuple(log_score.shape)} for {tuple(log_base.shape)}, "
                "or a NaN or +inf: it gives log P of each completion, -inf for what is excluded"
            )
        return log_score.double()

    def unequal_draws(self) -> str:
        """Return what is wrong with how often prompts were answered, empty if nothing is."""
        wrong = {prompt: n for prompt, n in self._counts.items() if n % GROUP}
        drew = ", ".join(f"{n} completions of {prompt!r}" for prompt, n in wrong.items())
        return f"the step drew {drew}: it takes {GROUP} of each prompt" if wrong else ""

    # ------------------------------------------------------------------ inside

    def _value(self, text: str) -> float:
        if self.target == "verifier":
            return float("b" in text)
        # Eighths between -1 and 1: exact in any precision, and in no order.
        place = sum((i + 1) * (7 * LETTERS.index(letter) + 5) for i, letter in enumerate(text))
        return (place % 17 - 8) / 8

    def _generate(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **others: Any
    ) -> Tensor:
        tokens = others["inputs"] if input_ids is None else input_ids
        seen = torch.ones_like(tokens) if attention_mask is None else attention_mask
        rows = []
        for ids, mask in zip(tokens, seen, strict=True):
            prompt = "".join(LETTERS[i] for i in ids[mask.bool()].tolist())
            if prompt not in self._of_prompt:
                raise ValueError(f"the step asked for completions of {prompt!r}, none of {PROMPTS}")
            answers, place = self._of_prompt[prompt], self._counts[prompt]
            self._counts[prompt] += 1
            answer = answers[place % GROUP]
            rows.append([*answer, *[END] * (LIMIT - len(answer))])
        return torch.cat([tokens, torch.tensor(rows, device=tokens.device)], 1)


def ids_of(prompt: str) -> list[int]:
    """Return the token ids of a prompt."""
    return [LETTERS.index(letter) for letter in prompt]


def log_laws(model: Any) -> list[tuple[Tensor, Tensor]]:
    """Return the log-laws after each prompt, (4,), and after it and one more letter, (3, 4).

    Parameters
    ----------
    model
        Differentiable. A prompt is scored alone: nothing is padded.
    """
    found = []
    for prompt in PROMPTS:
        rows = torch.tensor([[*ids_of(prompt), body] for body in BODIES])
        logs = torch.log_softmax(model(input_ids=rows, use_cache=False).logits[:, -2:], -1)
        found.append((logs[0, 0], logs[:, 1]))
    return found


def sequence_log_probs(first: Tensor, second: Tensor) -> Tensor:
    """Return the log-probabilities of `COMPLETIONS` from the laws of their tokens."""
    return torch.cat([first[END : END + 1], (first[BODIES, None] + second).flatten()])


def _laws(generator: torch.Generator) -> Tensor:
    """Return the law after each prompt, and after each and one more letter: (prompts, 4, 4)."""
    found = []
    for place in range(len(PROMPTS) * (1 + len(BODIES))):
        eighths = torch.tensor(_EIGHTHS[place % len(_EIGHTHS)], dtype=torch.float64) / 8
        found.append(eighths[torch.randperm(len(LETTERS), generator=generator)])
    return torch.stack(found).reshape(len(PROMPTS), 1 + len(BODIES), len(LETTERS))


def _logits(generator: torch.Generator) -> Tensor:
    shape = len(PROMPTS), 1 + len(BODIES), len(LETTERS)
    return 0.8 * torch.randn(shape, generator=generator, dtype=torch.float64)


def _as_often_as_it_is_said(law: Tensor) -> list[list[int]]:
    """Return 64 completions, each as often as its probability says, mixed up."""
    after = {(): law[0], **{(body,): law[1 + i] for i, body in enumerate(BODIES)}}
    found: list[list[int]] = []
    for ids in COMPLETIONS:
        eighths = [round(8 * float(after[ids[:i]][token])) for i, token in enumerate(ids)]
        # An end at once leaves the second place open.
        times = eighths[0] * (eighths[1] if len(ids) > 1 else 8)
        found += [list(ids) for _ in range(times)]
    order = torch.randperm(GROUP, generator=torch.Generator().manual_seed(4))
    return [found[i] for i in order.tolist()]


def _network(family: str) -> Any:
    """Build a model of four tokens, without dropout, float32."""
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": END, "pad_token_id": END}
    with torch.random.fork_rng(devices=[]):
        _ = torch.manual_seed(3)
        if family == "llama":
            config: Any = LlamaConfig(
                vocab_size=len(LETTERS),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=8,
                tie_word_embeddings=False,
                **ends,
            )
            network: Any = LlamaForCausalLM(config)
        else:
            config = GPT2Config(
                vocab_size=len(LETTERS),
                n_positions=8,
                n_embd=16,
                n_layer=2,
                n_head=2,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                tie_word_embeddings=False,
                **ends,
            )
            network = GPT2LMHeadModel(config)

        with torch.no_grad():
            for weight in network.parameters():
                # Matrices away from nought, or all prompts would look alike.
                if weight.ndim > 1:
                    _ = weight.mul_(10)
    network.generation_config.eos_token_id = network.generation_config.pad_token_id = END
    return network.eval()


def _weights_of(network: Any) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in network.state_dict().items()}


def _wide(family: str, weights: Mapping[str, Tensor]) -> Any:
    """Return a network with these weights in float64, but for norms that compute in float32."""
    network = _network(family)
    _ = network.load_state_dict(weights)
    return network.double()


def _speak(network: Any, logits: Tensor) -> None:
    """Set the last layer so that the network says what is asked after each of the 12 prefixes."""
    wide, hidden = copy.deepcopy(network).double(), []
    with torch.no_grad():
        for prompt, body in itertools.product(PROMPTS, (None, *BODIES)):
            ids = ids_of(prompt) + ([] if body is None else [body])
            out = wide(input_ids=torch.tensor([ids]), output_hidden_states=True)
            hidden.append(out.hidden_states[-1][0, -1])
        # Twelve equations for sixteen weights of each token: the smallest solution.
        solved = torch.linalg.lstsq(torch.stack(hidden), logits.flatten(0, 1), driver="gelsd")
        _ = network.lm_head.weight.copy_(solved.solution.T)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="a")
    tokenizer = Tokenizer(words)
    letters: Any = pre_tokenizers.Split("", "isolated")
    together: Any = decoders.Fuse()
    tokenizer.pre_tokenizer, tokenizer.decoder = letters, together
    end = LETTERS[END]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=end, eos_token=end)
