"""Train a small convolutional network on scikit-learn's digits and compile it to a project for an FPGA.

The project's testbench runs with an ordinary C++ compiler: `make csim` in the project compares every output bit with
the reference interpreter. Needs `pip install 'qcc[hls]' scikit-learn`, make and g++; no FPGA tools. Run it with
`python examples/digits_hls.py --output digits`.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import qcc
from qcc.backends.hls.runtime import HlsProgram

Data = tuple[torch.Tensor, torch.Tensor]


def load() -> tuple[Data, Data]:
    """Return images [n, 1, 8, 8] from 0 to 1 and their digits, for training and for testing."""
    images, digits = load_digits(return_X_y=True)
    parts = train_test_split(images / 16.0, digits, test_size=0.3, random_state=0, stratify=digits)
    train_x, test_x = (torch.tensor(one, dtype=torch.float32).reshape(-1, 1, 8, 8) for one in parts[:2])
    train_y, test_y = (torch.tensor(one) for one in parts[2:])
    return (train_x, train_y), (test_x, test_y)


def network() -> nn.Module:
    """Return the network: two convolutions, a pool, a linear layer; 2.6 thousand weights."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def train(model: nn.Module, data: Data, epochs: int = 40) -> None:
    """Train with Adam, in batches of 64, with some noise on the images."""
    images, digits = data
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            noisy = images[rows] + 0.1 * torch.randn_like(images[rows])
            loss = nn.functional.cross_entropy(model(noisy), digits[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()


def accuracy(logits: torch.Tensor, digits: torch.Tensor) -> float:
    """Return the share of right answers."""
    return float((logits.argmax(1) == digits).float().mean())


def build(model: nn.Module, images: torch.Tensor, output: Path, recipe: str) -> HlsProgram:
    """Compile the network with scales from 200 training images, and return the simulation of the project."""
    samples = [(image[None],) for image in images[:200]]
    settings = {"name": "digits", "part": "xck26", "clock_ns": "4", "target_fps": "50000"}
    qcc.compile(model, samples[0], recipe=recipe, target="hls", calibration=samples, output=output, settings=settings)
    return HlsProgram(output / "hls")


def main() -> None:
    """Train, compile, simulate the test images, and run the project's own testbench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder of the artifact; default: a temporary one")
    parser.add_argument("--recipe", default="fixed8")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    training, (images, digits) = load()
    model = network()
    train(model, training)
    model.eval()
    with torch.no_grad():
        in_float = accuracy(model(images), digits)
    with tempfile.TemporaryDirectory() as scratch:
        output = chosen.output or Path(scratch) / "digits"
        program = build(model, training[0], output, chosen.recipe)
        frames = [{name: image[None] for name in (program.inputs[0].name,)} for image in images]
        found = torch.cat([next(iter(one.values())) for one in program.run_frames(frames)])
        in_integers = accuracy(found, digits)
        print(f"accuracy on {len(images)} test images: float {in_float:.2%}, {chosen.recipe} {in_integers:.2%}")
        done = subprocess.run(["make", "-C", str(output / "hls"), "csim"], capture_output=True, text=True, check=False)
        print(done.stdout.strip().splitlines()[-2 if "Leaving" in done.stdout else -1] if done.stdout else done.stderr)
        if done.returncode:
            raise SystemExit("make csim failed")
        print((output / "hls" / "README.md").read_text("utf-8").split("## Estimates")[1].split("These")[0].strip())


if __name__ == "__main__":
    main()
