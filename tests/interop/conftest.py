from interop.loopback_hub import hub

__all__ = ["hub"]
