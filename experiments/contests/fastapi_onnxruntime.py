"""A classifier behind FastAPI with ONNX Runtime: one session, created once, with one thread."""

import json
import os

import numpy
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["CONTEST_MODEL"], options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
classes = json.loads(os.environ["CONTEST_CLASSES"])
app = FastAPI()


class Image(BaseModel):
    pixels: list[list[list[float]]]  # C,H,W


class Prediction(BaseModel):
    label: str
    probabilities: list[float]


@app.post("/predict")
def predict(image: Image) -> Prediction:
    logits = session.run(None, {name: numpy.array(image.pixels, dtype=numpy.float32)[None]})[0][0]
    shares = numpy.exp(logits - logits.max())
    probabilities = shares / shares.sum()
    return Prediction(label=classes[int(probabilities.argmax())], probabilities=probabilities.tolist())
