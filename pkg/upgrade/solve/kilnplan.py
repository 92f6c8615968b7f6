# A plugin of dnf 4 (https://dnf.readthedocs.io/en/latest/api_plugins.html) that writes what dnf has solved as JSON.
# It runs in the sandbox of a plan: nothing is fetched or changed.
import copy
import json
import os

import dnf
import hawkey


def evr(package):
    epoch = "%d:" % package.epoch if package.epoch else ""
    return "%s%s-%s" % (epoch, package.version, package.release)


class KilnPlan(dnf.Plugin):
    name = "kilnplan"

    def resolved(self):
        base = self.base
        coming = list(base.transaction.install_set)
        ids = set((p.name, p.arch) for p in coming)
        away = []
        for item in base.transaction:
            if item.action in dnf.transaction.BACKWARD_ACTIONS:
                away.append({"name": item.pkg.name, "arch": item.pkg.arch, "version": evr(item.pkg), "installed": item.pkg.installsize})
        installed = base.sack.query(flags=hawkey.IGNORE_EXCLUDES).installed()
        known = len([p for p in installed if p.name != "gpg-pubkey"])
        answer = {"known": known, "come": [self.describe(p) for p in coming], "go": away, "held": [], "problems": []}
        offered = base.sack.query().upgrades()
        for p in base.sack.query(flags=hawkey.IGNORE_EXCLUDES).upgrades().latest():
            if (p.name, p.arch) in ids:
                continue
            held = self.describe(p)
            held["excluded"] = len(offered.filter(name=p.name, arch=p.arch)) == 0
            answer["held"].append(held)
        if answer["held"]:
            answer["problems"] = self.problems()
        with open(os.path.join(os.path.dirname(__file__), "answer.json"), "w") as out:
            json.dump(answer, out)

    # describe tells all that the repositories say about a package that would be installed.
    def describe(self, package):
        old = None
        for p in self.base.sack.query(flags=hawkey.IGNORE_EXCLUDES).installed().filter(name=package.name, arch=package.arch):
            if old is None or p.evr_gt(old):
                old = p
        kind, digest = package.returnIdSum() or ("", "")
        advisories = []
        for a in package.get_advisories(hawkey.EQ | hawkey.LT):
            for fixed in a.packages:
                if fixed.name != package.name or fixed.arch != package.arch:
                    continue
                if old is not None and self.base.sack.evr_cmp(fixed.evr, old.evr) <= 0:
                    continue
                if self.base.sack.evr_cmp(fixed.evr, package.evr) > 0 or old is None and fixed.evr != package.evr:
                    continue
                advisories.append({
                    "security": a.type == hawkey.ADVISORY_SECURITY, "severity": a.severity or "",
                    "cves": [r.id for r in a.references if r.type == hawkey.REFERENCE_CVE],
                })
                break
        return {
            "name": package.name, "arch": package.arch, "version": evr(package), "had": evr(old) if old is not None else "",
            "source": package.sourcerpm or "", "repository": package.reponame, "size": package.downloadsize, "installed": package.installsize,
            "file": package.location or "", "sum": kind, "digest": digest, "advisories": advisories,
        }

    # problems are dnf's words for why the best versions cannot all be had.
    def problems(self):
        try:
            goal = copy.deepcopy(self.base._goal)
            if goal.run(force_best=True):
                return []
            return [line for rules in goal.problem_rules() for line in rules]
        except Exception:  # not of dnf's stable interface: a plan without reasons is better than none
            return []
