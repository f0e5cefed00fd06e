"""The result of an audit as values and as text; `formats` has what other programs read."""

from deployer.report.text import as_text as as_text
from deployer.report.text import first_reason as first_reason
from deployer.report.text import ranking as ranking
from deployer.report.text import verdict as verdict
from deployer.report.values import SCHEMA_VERSION as SCHEMA_VERSION
from deployer.report.values import Finding as Finding
from deployer.report.values import Outcome as Outcome
from deployer.report.values import Report as Report
from deployer.report.values import failed as failed
from deployer.report.values import passed as passed
from deployer.report.values import skipped as skipped
from deployer.report.values import unknown as unknown
from deployer.report.values import warned as warned
