"""The training loop: one device, AdamW, bf16 autocast, torch.compile, checkpoints that resume exactly, a JSON log."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import prosparse_lambda
from .data import Tokens
from .evaluate import evaluate
from .files import memory_free
from .losses import PENALTIES
from .lte import hard_routing
from .model import Llama, ModelConfig


@dataclass
class Recipe:
    """Everything that decides a run but the model and the text. Steps count from 1.

    The loss is the mean cross-entropy + lambda(step) * penalty + (with routers, stage 1) eta * L_eff + sep * L_sep; penalty,
    L_eff and L_sep are means over the layers.
    """

    steps: int
    batch: int = 256  # windows per step
    micro_batch: int = 0  # windows per forward pass; 0: batch
    lr: float = 1e-3
    lr_end: float = 0.1  # share of lr at the last step: cosine between
    warmup: int = 100
    weight_decay: float = 0.1  # of all matrices but the embedding
    clip: float = 1.0
    seed: int = 0
    penalty: str = ""  # one of PENALTIES; "": none
    stages: list[tuple[int, float]] = field(default_factory=list)  # ProSparse's schedule: (end step, factor)
    lte_steps: int = 0  # stage 1's last step; routers are hard behind it
    eta: float = 0.5
    sep: float = 0.5
    open_target: float = 0.0  # > 0: eta follows, so that this share of the experts is open at the end of stage 1

    def check(self, model: Llama) -> None:
        if self.steps < 1 or self.batch < 1 or self.micro_batch < 0 or (self.micro_batch and self.batch % self.micro_batch):
            raise ValueError(f"recipe: steps {self.steps}, batch {self.batch}, micro_batch {self.micro_batch} don't fit")
        if bool(self.penalty) != bool(self.stages) or (self.penalty and self.penalty not in PENALTIES):
            raise ValueError(f"recipe: penalty {self.penalty!r} with {len(self.stages)} stages; kinds are {', '.join(PENALTIES)}")
        if self.stages:
            prosparse_lambda(self.stages, 1)
        if bool(self.lte_steps) != bool(model.config.expert_size):
            raise ValueError(f"recipe: lte_steps {self.lte_steps}, but the model's expert_size is {model.config.expert_size}")

    def lr_at(self, step: int) -> float:
        if step <= self.warmup:
            return self.lr * step / max(1, self.warmup)
        u = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (self.lr_end + (1 - self.lr_end) * 0.5 * (1 + math.cos(math.pi * u)))

    def lambda_at(self, step: int) -> float:
        return prosparse_lambda(self.stages, step) if self.stages else 0.0


def prosparse_stages(steps: int, peak: float, dense: float = 0.4) -> list[tuple[int, float]]:
    """A schedule of ProSparse's form for a run of ``steps``: a share ``dense`` without penalty, 1/40 of the peak, two half waves with a
    plateau between (to 1/4 and to the peak), and the peak held for the last 5 %: the proportions of its 7B run."""
    rest = 1 - dense
    shares = [(dense, 0.0), (dense + 0.1 * rest, 0.025), (dense + 0.45 * rest, 0.25), (dense + 0.6 * rest, 0.25),
              (dense + 0.92 * rest, 1.0), (1.0, 1.0)]  # fmt: skip
    stages: list[tuple[int, float]] = []
    for share, factor in shares:
        end = max(round(share * steps), stages[-1][0] + 1 if stages else 1)
        stages.append((end, factor * peak))
    return stages


def memory_needed(config: ModelConfig, tokens: int, device: torch.device) -> int:
    """Bytes that training takes, about: float32 weights, gradients and two moments, and what a forward pass over ``tokens`` keeps,
    which is bf16 on a GPU and float32 on a CPU."""
    c, size = config, 2 if device.type == "cuda" else 4
    per_token = c.n_layers * (12 * c.d_model + 8 * c.d_ff) * size + c.n_vocab * 8
    return c.n_parameters * 16 + tokens * per_token


def check_memory(config: ModelConfig, recipe: Recipe, n_context: int, device: torch.device) -> None:
    """Raises MemoryError when training on windows of ``n_context`` tokens needs more than ``device`` has free."""
    free = memory_free(device)
    windows = recipe.micro_batch or recipe.batch
    need = memory_needed(config, windows * n_context, device)
    if need <= free:
        return
    fits = [n for n in range(1, min(windows, 4096)) if recipe.batch % n == 0 and memory_needed(config, n * n_context, device) <= free]
    advice = f"a smaller micro_batch needs less: --micro-batch {fits[-1]} fits" if fits else "even one window at a time does not fit"
    raise MemoryError(f"{need / 1e9:.1f} GB are needed on {device} for {windows} windows of {n_context} tokens, {free / 1e9:.1f} GB are free: {advice}")


class Trainer:
    """Runs a recipe. ``out`` gets checkpoint.pt, log.jsonl (one object per line) and nothing else.

    Args:
        model: on its device; trained in place.
        tokens: training text, windows of at most the model's context.
        recipe: checked against model and text here, before anything is spent.
        out: folder; a checkpoint there is taken up where it stopped. Its recipe must be the same.
        heldout: evaluated at the end and every ``eval_every`` steps.
        start: a checkpoint of another run to branch from: its weights, moments and step.

    Raises ValueError for a recipe that does not fit and MemoryError when the device has too little memory.
    """

    def __init__(
        self,
        model: Llama,
        tokens: Tokens,
        recipe: Recipe,
        out: str | os.PathLike[str],
        *,
        heldout: Tokens | None = None,
        eval_every: int = 0,
        log_every: int = 10,
        start: str | os.PathLike[str] | None = None,
        compile: bool = False,
        quiet: bool = False,
    ) -> None:
        recipe.check(model)
        if tokens.n_context > model.config.n_context:
            raise ValueError(f"text: windows of {tokens.n_context} tokens, the model's context is {model.config.n_context}")
        largest = int(tokens.ids.max())
        if largest >= model.config.n_vocab:
            raise ValueError(f"text: token {largest}, but the model's vocabulary has {model.config.n_vocab}: is it the model's tokenizer?")
        self.model, self.tokens, self.recipe, self.heldout = model, tokens, recipe, heldout
        self.eval_every, self.log_every, self.quiet = eval_every, log_every, quiet
        self.out = Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.device = next(model.parameters()).device
        self.micro = recipe.micro_batch or recipe.batch
        check_memory(model.config, recipe, tokens.n_context, self.device)
        for ffn in model.ffns:
            ffn.penalty_kind = recipe.penalty
        named = list(model.named_parameters())
        decayed = [p for n, p in named if p.dim() >= 2 and n != "embed_tokens.weight"]
        others = [p for n, p in named if not (p.dim() >= 2 and n != "embed_tokens.weight")]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.lr, betas=(0.9, 0.95), fused=self.device.type == "cuda",
        )  # fmt: skip
        self.step, self.seconds, self.eta = 0, 0.0, recipe.eta
        if self.checkpoint.exists():
            self._load(self.checkpoint, exactly=True)
        elif start is not None:
            self._load(Path(start), exactly=False)
        if compile:
            model.compile_parts()

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    @property
    def is_done(self) -> bool:
        return self.step >= self.recipe.steps

    def save(self) -> None:
        """Writes the checkpoint; an interrupted write leaves the one before."""
        state = {
            "step": self.step, "seconds": self.seconds, "eta": self.eta, "recipe": asdict(self.recipe), "config": self.model.config.as_dict(),
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }  # fmt: skip
        temporary = self.out / "checkpoint.part"
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def _load(self, path: Path, exactly: bool) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        if exactly:
            mine = json.loads(json.dumps(asdict(self.recipe)))
            theirs = json.loads(json.dumps(state["recipe"]))
            if differ := [k for k in mine if mine[k] != theirs.get(k)]:
                raise ValueError(f"{path}: was made with another recipe, {differ[0]} = {theirs.get(differ[0])!r}, not {mine[differ[0]]!r}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        if exactly:
            self.eta = state["eta"]
            torch.set_rng_state(state["rng"].cpu())
            if state["cuda_rng"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)

    def _loss(self, step: int, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        r = self.recipe
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            task, measures = self.model(x, y)
        loss = task
        if r.penalty:
            loss = loss + r.lambda_at(step) * measures["penalty"].mean()
        if "eff" in measures:
            loss = loss + self.eta * measures["eff"].mean() + r.sep * measures["sep"].mean()
        return loss, task, measures

    def _one_step(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        r = self.recipe
        if r.lte_steps and step > r.lte_steps and not self.model.ffns[0].is_hard:
            hard_routing(self.model)
        for group in self.optimizer.param_groups:
            group["lr"] = r.lr_at(step)
        x, y = self.tokens.batch(step, r.batch)
        parts = r.batch // self.micro
        task_sum: Any = 0.0
        sums: dict[str, torch.Tensor] = {}
        for i in range(parts):
            here = slice(i * self.micro, (i + 1) * self.micro)
            loss, task, measures = self._loss(step, x[here], y[here])
            (loss / parts).backward()
            task_sum = task_sum + task.detach() / parts
            for name, value in measures.items():
                sums[name] = sums.get(name, 0) + value.detach() / parts
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], r.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if r.open_target and step <= r.lte_steps and step % 5 == 0:
            # eta is multiplied, so it stays positive; 4 per cent for every 10 points off the target
            self.eta = min(1e3, max(1e-3, self.eta * math.exp(0.4 * (float(sums["open"].mean()) - r.open_target))))
        return task_sum, sums

    def run(self, max_seconds: float = math.inf, on_log: Callable[[dict[str, Any]], None] | None = None) -> bool:
        """Trains to the last step, or for ``max_seconds``. Saves a checkpoint at the end; true when the run is complete."""
        self.model.train()
        begun, last, last_step = time.monotonic(), time.monotonic(), self.step
        tokens_per_step = self.recipe.batch * self.tokens.n_context
        with open(self.out / "log.jsonl", "a", encoding="utf-8") as log:
            while not self.is_done:
                step = self.step + 1
                loss, measures = self._one_step(step)
                self.step = step
                if step % self.log_every == 0 or self.is_done:
                    line: dict[str, Any] = {"step": step, "tokens": step * tokens_per_step, "loss": float(loss)}
                    now = time.monotonic()
                    rate = (step - last_step) * tokens_per_step / (now - last)
                    self.seconds += now - last
                    last, last_step = now, step
                    if not math.isfinite(line["loss"]):
                        raise FloatingPointError(f"the loss is {line['loss']} at step {step}: a smaller lr, or a longer warm-up")
                    line.update(lr=self.recipe.lr_at(step), tokens_per_s=round(rate), seconds=round(self.seconds, 2))
                    if self.recipe.penalty:
                        line["lambda"] = self.recipe.lambda_at(step)
                    if self.recipe.lte_steps:
                        line["eta"] = self.eta if step <= self.recipe.lte_steps else 0.0
                    line.update({name: [round(v, 6) for v in value.tolist()] for name, value in measures.items()})
                    if self.heldout is not None and (self.is_done or (self.eval_every and step % self.eval_every < self.log_every)):
                        found = evaluate(self.model, self.heldout, limit=256 if self.is_done else 64)
                        line["heldout_perplexity"], line["heldout_zeros"] = found["perplexity"], found["zeros"]
                        last = time.monotonic()
                    log.write(json.dumps(line) + "\n")
                    log.flush()
                    self._say(line)
                    if on_log:
                        on_log(line)
                    if time.monotonic() - begun > max_seconds:
                        break
        self.save()
        return self.is_done

    def _say(self, line: dict[str, Any]) -> None:
        if self.quiet:
            return
        zeros = line["zeros"]
        words = [f"{line['step']:>6}/{self.recipe.steps}", f"loss {line['loss']:.4f}", f"zeros {sum(zeros) / len(zeros):.3f}"]
        words.append("[" + " ".join(f"{z:.2f}" for z in (zeros if len(zeros) <= 12 else zeros[:: len(zeros) // 10])) + "]")
        if "lambda" in line:
            words.append(f"lambda {line['lambda']:.4g}")
        if "open" in line:
            words.append(f"open {sum(line['open']) / len(line['open']):.3f} eta {line['eta']:.3g}")
        if "heldout_perplexity" in line:
            words.append(f"held-out {line['heldout_perplexity']:.3f}")
        words.append(f"{line['tokens_per_s']:,} tokens/s")
        print("  ".join(words), file=sys.stderr, flush=True)
