"""What an image model looks at: maps over an image, for a class."""

from jaxvision.explain.attention import LayerAttention, attention_maps
from jaxvision.explain.curves import deletion_curve, insertion_curve
from jaxvision.explain.eigen_cam import eigen_cam
from jaxvision.explain.grad_cam import grad_cam
from jaxvision.explain.grad_cam_plus_plus import grad_cam_plus_plus
from jaxvision.explain.gradient_rollout import gradient_rollout
from jaxvision.explain.integrated_gradients import integrated_gradients
from jaxvision.explain.occlusion import occlusion
from jaxvision.explain.resize import to_image_size
from jaxvision.explain.rollout import rollout
from jaxvision.explain.smooth_grad import smooth_grad
from jaxvision.explain.stages import feature_maps
from jaxvision.explain.word_gradients import word_gradients

__all__ = [
    "LayerAttention",
    "attention_maps",
    "deletion_curve",
    "eigen_cam",
    "feature_maps",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient_rollout",
    "insertion_curve",
    "integrated_gradients",
    "occlusion",
    "rollout",
    "smooth_grad",
    "to_image_size",
    "word_gradients",
]
