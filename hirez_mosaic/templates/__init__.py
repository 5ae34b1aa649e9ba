"""Template sets: the small pictures a mosaic is made of."""

from hirez_mosaic.templates.loading import enlarged, load_templates
from hirez_mosaic.templates.template_set import RESIDENT, TemplateSet, release

__all__ = ["RESIDENT", "TemplateSet", "enlarged", "load_templates", "release"]
