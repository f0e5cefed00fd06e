"""Models: where they come from, where they are kept, what their headers say. `models.pull` fetches them."""

from deployer.models.headers import Header as Header
from deployer.models.headers import read_header as read_header
from deployer.models.manifest import Model as Model
from deployer.models.sources import source_url as source_url
from deployer.models.store import Store as Store
from deployer.models.store import converted_id as converted_id
from deployer.models.store import model_id as model_id
