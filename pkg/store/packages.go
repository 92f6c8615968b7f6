package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/kiln-cloud/kiln/pkg/advisory"
	"github.com/kiln-cloud/kiln/pkg/catalog"
	"github.com/kiln-cloud/kiln/pkg/errs"
)

var _ interface {
	advisory.Asker
	advisory.RunStore
} = (*DB)(nil)

// comparedColumns are columns of images that comparing and counting write, and nobody else.
var comparedColumns = []string{"pending_updates", "lacks", "pending_since", "running", "weight", "rank"}

// imagePackage is one row of the table that answers who has what.
type imagePackage struct {
	ImageID       string `json:"image_id"`
	Name          string `json:"name"`
	Architecture  string `json:"architecture"`
	Version       string `json:"version"`
	Source        string `json:"source"`
	SourceVersion string `json:"source_version"`
}

var packageTable = tableOf[imagePackage](spec{name: "image_packages", resource: "package", key: "image_id"})

type imageSystem struct {
	ImageID      string `json:"image_id"`
	Kind         string `json:"kind"`
	OS           string `json:"os"`
	Release      string `json:"release"`
	VersionID    string `json:"version_id"`
	Architecture string `json:"architecture"`
	Sum          string `json:"sum"`
	Compared     string `json:"compared"`
}

var systemTable = tableOf[imageSystem](spec{name: "image_systems", resource: "image", key: "image_id"})

// putPackages makes the table of installed packages equal to the image's facts. Facts that did not change cost one
// question.
func (db *DB) putPackages(ctx context.Context, i catalog.Image) error {
	var had string
	found, err := db.one(ctx, "image", i.ID, []any{&had}, "SELECT `sum` FROM `image_systems` WHERE `image_id` = ?"+db.d.forUpdate, i.ID)
	if err != nil {
		return err
	}
	if i.Facts == nil {
		if found {
			return db.dropPackages(ctx, i.ID)
		}
		return nil
	}
	installed := advisory.InstalledOf(i.Facts)
	rows := make([]imagePackage, len(installed))
	for n, p := range installed {
		rows[n] = imagePackage{i.ID, p.Name, p.Architecture, p.Version, p.Source, p.SourceVersion}
	}
	of := advisory.SystemOf(i)
	s := imageSystem{ImageID: i.ID, Kind: of.Kind, OS: of.OS, Release: of.Release, VersionID: of.VersionID, Architecture: of.Architecture}
	s.Sum = sumOf(s, rows)
	if s.Sum == had {
		return nil
	}
	if _, err := db.exec(ctx, "image", i.ID, "DELETE FROM `image_packages` WHERE `image_id` = ?", i.ID); err != nil {
		return err
	}
	if err := packageTable.insert(ctx, db, "", rows...); err != nil {
		return err
	}
	return systemTable.insert(ctx, db, systemTable.replaceTail(db), s)
}

// dropPackages forgets what an image has and lacks.
func (db *DB) dropPackages(ctx context.Context, imageID string) error {
	for _, table := range []string{"image_packages", "image_systems", "pending"} {
		if _, err := db.exec(ctx, "image", imageID, "DELETE FROM "+quote(table)+" WHERE `image_id` = ?", imageID); err != nil {
			return err
		}
	}
	return nil
}

func sumOf(s imageSystem, rows []imagePackage) string {
	sum := sha256.New()
	fmt.Fprintln(sum, s.Kind, s.OS, s.Release, s.VersionID, s.Architecture) //nolint:errcheck // a hash takes all
	for _, r := range rows {
		fmt.Fprintln(sum, r.Name, r.Architecture, r.Version, r.Source, r.SourceVersion) //nolint:errcheck // a hash takes all
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// ListSystems implements advisory.Store.
func (db *DB) ListSystems(ctx context.Context) ([]advisory.System, error) {
	var out []advisory.System
	err := db.each(ctx, "image", "", func(r *sqlx.Rows) error {
		var s advisory.System
		err := r.Scan(&s.ImageID, &s.ProjectID, &s.Kind, &s.OS, &s.Release, &s.VersionID, &s.Architecture, &s.Sum, &s.Compared)
		out = append(out, s)
		return err
	}, "SELECT `s`.`image_id`, `i`.`project_id`, `s`.`kind`, `s`.`os`, `s`.`release`, `s`.`version_id`, `s`.`architecture`, `s`.`sum`, `s`.`compared`"+
		" FROM `image_systems` AS `s` JOIN `images` AS `i` ON `i`.`id` = `s`.`image_id` WHERE `i`.`state` = ? ORDER BY `s`.`image_id`", string(catalog.Inspected))
	return out, err
}

// ListInstalled implements advisory.Store.
func (db *DB) ListInstalled(ctx context.Context, imageID string) ([]advisory.Installed, error) {
	var out []advisory.Installed
	err := db.each(ctx, "image", imageID, func(r *sqlx.Rows) error {
		var p advisory.Installed
		err := r.Scan(&p.Name, &p.Architecture, &p.Version, &p.Source, &p.SourceVersion)
		out = append(out, p)
		return err
	}, "SELECT `name`, `architecture`, `version`, `source`, `source_version` FROM `image_packages` WHERE `image_id` = ? ORDER BY `name`, `architecture`, `version`", imageID)
	return out, err
}

// ListNames implements advisory.Store.
func (db *DB) ListNames(ctx context.Context) (map[string]bool, error) {
	out := map[string]bool{}
	err := db.each(ctx, "package", "", func(r *sqlx.Rows) error {
		var name string
		err := r.Scan(&name)
		out[name] = true
		return err
	}, "SELECT DISTINCT `name` FROM `image_packages` UNION SELECT DISTINCT `source` FROM `image_packages`")
	return out, err
}

// packagesAtOnce is how many rows are read before versions are compared: SQL knows no distribution's order.
const packagesAtOnce = 2000

// Holdings implements advisory.Asker.
func (db *DB) Holdings(ctx context.Context, q advisory.Question) ([]advisory.Holding, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	at, err := advisory.PlaceOf(q.Marker)
	if err != nil {
		return nil, err
	}
	limit, out := limitOf(q.Limit), []advisory.Holding{}
	fits := versionFilter(q)
	for {
		rows, err := db.holdings(ctx, q, at, packagesAtOnce)
		if err != nil {
			return nil, err
		}
		for _, h := range rows {
			at = advisory.Place{ImageID: h.ImageID, Package: h.Package, Architecture: h.Architecture, Version: h.Version}
			h.ID = at.HoldingID()
			ok, err := fits(h)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			if out = append(out, h); len(out) == limit {
				return out, nil
			}
		}
		if len(rows) < packagesAtOnce {
			return out, nil
		}
	}
}

// versionFilter compares each version that it meets once. An installed version that nobody can read fits no question;
// a question that cannot be read is the caller's fault.
func versionFilter(q advisory.Question) func(advisory.Holding) (bool, error) {
	if q.Op == "" {
		return func(advisory.Holding) (bool, error) { return true, nil }
	}
	type key struct{ kind, version string }
	known := map[key]bool{}
	return func(h advisory.Holding) (bool, error) {
		v := h.Version
		if q.Source != "" {
			v = h.SourceVersion
		}
		k := key{h.Kind, v}
		fits, ok := known[k]
		if ok {
			return fits, nil
		}
		c, err := advisory.Compare(h.Kind, v, q.Version)
		if err != nil {
			if _, bad := advisory.Compare(h.Kind, q.Version, q.Version); bad != nil {
				return false, bad
			}
		}
		known[k] = err == nil && q.Op.Holds(c)
		return known[k], nil
	}
}

// holdings reads the next rows behind a place, whatever their versions.
func (db *DB) holdings(ctx context.Context, q advisory.Question, at advisory.Place, limit int) ([]advisory.Holding, error) {
	rows, name, version := "`image_packages` AS `p`", "`p`.`name`", "`p`.`version`"
	rest := "`p`.`source_version`, '', '', '', ''"
	var cond, asked string
	switch {
	case q.Name != "":
		cond, asked = "`p`.`name` = ?", q.Name
	case q.Source != "":
		cond, asked = "`p`.`source` = ?", q.Source
	default:
		rows, name, version = "`pending` AS `p`", "`p`.`package`", "`p`.`installed`"
		rest = "'', `p`.`fixed`, `p`.`suite`, `p`.`urgency`, `p`.`advisory_id`"
		cond, asked = "`p`.`advisory_id` = ?", q.Advisory
		if q.CVE != "" {
			rows = "`gap_cves` AS `c` JOIN `pending` AS `p` ON `p`.`gap` = `c`.`gap`"
			cond, asked = "`c`.`cve` = ?", q.CVE
		}
	}
	conds, args := []string{cond, "`i`.`state` <> ?"}, []any{asked, string(catalog.Gone)}
	if q.ProjectID != "" {
		conds, args = append(conds, "`i`.`project_id` = ?"), append(args, q.ProjectID)
	}
	cols := []string{"`p`.`image_id`", name, "`p`.`architecture`", version}
	if at != (advisory.Place{}) {
		behind, values := behind(cols, []any{at.ImageID, at.Package, at.Architecture, at.Version})
		conds, args = append(conds, behind), append(args, values...)
	}
	out := make([]advisory.Holding, 0, min(limit, 128))
	query := "SELECT " + strings.Join(cols, ", ") + ", `i`.`name`, `i`.`project_id`, `i`.`running`, `p`.`source`, COALESCE(`s`.`kind`, ''), " + rest +
		" FROM " + rows + " JOIN `images` AS `i` ON `i`.`id` = `p`.`image_id` LEFT JOIN `image_systems` AS `s` ON `s`.`image_id` = `p`.`image_id`" +
		" WHERE " + strings.Join(conds, " AND ") + " ORDER BY " + strings.Join(cols, ", ") + " LIMIT " + strconv.Itoa(limit)
	err := db.each(ctx, "package", "", func(r *sqlx.Rows) error {
		var h advisory.Holding
		err := r.Scan(&h.ImageID, &h.Package, &h.Architecture, &h.Version, &h.Image, &h.ProjectID, &h.Running, &h.Source, &h.Kind,
			&h.SourceVersion, &h.Fixed, &h.Suite, &h.Urgency, &h.Advisory)
		out = append(out, h)
		return err
	}, query, args...)
	return out, err
}

// behind is the condition that a row comes after the values, in the order of the columns. The first one stands by
// itself, too: neither database finds a range of an index in an OR.
func behind(cols []string, values []any) (string, []any) {
	args := []any{values[0]}
	ors := make([]string, len(cols))
	for n := range cols {
		ands := make([]string, 0, n+1)
		for _, c := range cols[:n] {
			ands = append(ands, c+" = ?")
		}
		ors[n] = "(" + strings.Join(append(ands, cols[n]+" > ?"), " AND ") + ")"
		args = append(args, values[:n+1]...)
	}
	return cols[0] + " >= ? AND (" + strings.Join(ors, " OR ") + ")", args
}

// KnownCVE implements advisory.Asker.
func (db *DB) KnownCVE(ctx context.Context, projectID, id string) (advisory.Known, error) {
	k := advisory.Known{ID: id, Fixes: []advisory.Remedy{}}
	from := " FROM `gap_cves` AS `c` JOIN `pending` AS `p` ON `p`.`gap` = `c`.`gap` JOIN `images` AS `i` ON `i`.`id` = `p`.`image_id` WHERE `c`.`cve` = ? AND `i`.`state` <> ?"
	args := []any{id, string(catalog.Gone)}
	if projectID != "" {
		from, args = from+" AND `i`.`project_id` = ?", append(args, projectID)
	}
	images := map[string]int{}
	err := db.each(ctx, "cve", id, func(r *sqlx.Rows) error {
		var image, urgency string
		var running int
		if err := r.Scan(&image, &running, &urgency); err != nil {
			return err
		}
		if _, seen := images[image]; !seen {
			k.Running += running
		}
		images[image] = running
		k.Urgency = advisory.Worse(k.Urgency, urgency)
		return nil
	}, "SELECT DISTINCT `i`.`id`, `i`.`running`, `c`.`urgency`"+from, args...)
	if err != nil {
		return k, err
	}
	if k.Images = len(images); k.Images == 0 {
		return k, errs.New(errs.NotFound, "kiln.cve.not_found", "there is no cve %s", id)
	}
	err = db.each(ctx, "cve", id, func(r *sqlx.Rows) error {
		var x advisory.Remedy
		err := r.Scan(&x.Source, &x.Fixed, &x.Suite, &x.Images)
		k.Fixes = append(k.Fixes, x)
		return err
	}, "SELECT `p`.`source`, `p`.`fixed`, `p`.`suite`, COUNT(DISTINCT `p`.`image_id`)"+from+" GROUP BY `p`.`source`, `p`.`fixed`, `p`.`suite` ORDER BY `p`.`source`, `p`.`fixed`, `p`.`suite`", args...)
	return k, err
}
