"""A classifier behind FastAPI with eager PyTorch, written in the common way: one image per request, nested lists, a function
in the thread pool. PyTorch uses one thread: the contest gives the server one processor, where more threads would be slower.
"""

import json
import os

import torch
from fastapi import FastAPI
from pydantic import BaseModel

torch.set_num_threads(1)
model = torch.load(os.environ["CONTEST_MODEL"], weights_only=False).eval()
classes = json.loads(os.environ["CONTEST_CLASSES"])
app = FastAPI()


class Image(BaseModel):
    pixels: list[list[list[float]]]  # C,H,W


class Prediction(BaseModel):
    label: str
    probabilities: list[float]


@app.post("/predict")
def predict(image: Image) -> Prediction:
    with torch.inference_mode():
        probabilities = model(torch.tensor(image.pixels)[None]).softmax(1)[0]
    return Prediction(label=classes[int(probabilities.argmax())], probabilities=probabilities.tolist())
