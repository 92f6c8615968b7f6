package cli

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kiln-cloud/kiln/pkg/client"
)

// noun is one resource of the API with the verbs that it has.
type noun struct {
	name, plural string
	about        string
	columns      []string
	path         string  // of the list; "/v1/<plural>" where empty
	key          string  // what names one in its path, for the help
	fields       []field // of create; none where there is no create
	deletes      bool
	actions      []action // verbs of their own
	noShow       bool
	named        bool // create takes the name as its argument, too
}

// field is one flag of create.
type field struct {
	flag, json, about string
	list, number      bool
	truth             bool   // true or left out
	object            string // the JSON object that the field is in
}

// action is POST /v1/<plural>/{key}/<path>, or without the key.
type action struct {
	name, path, about string
	whole             bool // acts on the whole list
	still             bool // starts no work
}

func text(flag, about string) field {
	return field{flag: flag, json: strings.ReplaceAll(flag, "-", "_"), about: about}
}

func amount(flag, json, about string) field {
	return field{flag: flag, json: json, about: about, number: true, object: "resources"}
}

func nouns() []noun {
	return []noun{
		{name: "source", plural: "sources", about: "git repositories of recipes", key: "ID", columns: []string{"id", "name", "url", "state", "interval", "commit"},
			fields: []field{text("name", "name; or as the argument"), text("url", "address of the repository"), text("ref", "branch or tag"),
				{flag: "hosted", json: "hosted", about: "Kiln keeps the repository: git push to it", truth: true},
				text("interval", "how often it is pulled, for example 15m"), text("secret", "for webhooks; made where left out")}, named: true, deletes: true,
			actions: []action{{name: "sync", path: "sync", about: "read the recipes again"},
				{name: "secret", path: "secret", about: "give it another secret for webhooks, and show it", still: true}}},
		{name: "recipe", plural: "recipes", about: "recipes of the sources", key: "ID", columns: []string{"id", "name", "path", "problems"}},
		{name: "build", plural: "builds", about: "runs of recipes", key: "ID", columns: []string{"id", "recipe", "family", "version", "state", "trigger", "worker", "image_id"},
			fields: []field{text("source", "name of the source"), text("recipe", "name of the recipe"), text("recipe-id", "or the recipe's id")}},
		{name: "family", plural: "families", about: "lines of images", key: "NAME", columns: []string{"name", "channels", "description"},
			fields: []field{text("name", "name"), text("description", "one sentence")}},
		{name: "image", plural: "images", about: "images with what reading their disks found", key: "ID", columns: []string{"id", "name", "state", "size", "pending_updates"},
			actions: []action{{name: "inspect", path: "inspect", about: "read the disk again"}}},
		{name: "advisory", plural: "advisories", about: "published fixes", key: "ID", columns: []string{"package", "version", "suite", "security", "urgency", "cves"},
			actions: []action{{name: "refresh", path: "refresh", about: "read the repositories again", whole: true}}},
		{name: "upgrade", plural: "upgrades", about: "new versions made offline", key: "ID", columns: []string{"id", "family", "from_version", "to_version", "state", "to_image_id"},
			fields: []field{text("image-id", "Glance image"), text("family", "or family"), text("channel", "and channel or version"),
				text("adopt-into", "family that an image of none begins")}},
		campaignNoun(), upgradePolicyNoun(),
		{name: "worker", plural: "workers", about: "programs that build and change images", key: "NAME", columns: []string{"name", "up", "builders", "labels", "free_disk", "seen_at"}},
		{name: "cluster", plural: "clusters", about: "compute nodes that are near each other", key: "NAME", columns: []string{"name", "nodes", "stores"}, deletes: true,
			fields: []field{text("name", "name"), {flag: "node", json: "nodes", about: "node; several times", list: true},
				{flag: "store", json: "stores", about: "NAME:directory or NAME:ceph:POOL; several times", list: true, object: "stores"}}},
		{name: "copy", plural: "copies", about: "images held near the nodes", key: "ID", columns: []string{"id", "image_id", "cluster", "store", "node", "state", "bytes"}, deletes: true,
			fields: []field{text("image-id", "Glance image"), text("family", "or family"), text("channel", "and channel or version"), text("cluster", "cluster"),
				{flag: "node", json: "nodes", about: "also into Nova's cache of this node; several times", list: true}}},
		{name: "node", plural: "nodes", about: "compute hosts", key: "NAME", columns: []string{"name", "cluster", "up", "disabled", "capacity", "foreign", "held"}},
		{name: "workload", plural: "workloads", about: "VMs and containers that Kiln placed", key: "ID", columns: []string{"id", "name", "kind", "state", "node", "version", "external_id"}, deletes: true,
			fields: []field{text("name", "name"), text("kind", "vm or container"), text("family", "family"), text("channel", "channel or version"),
				text("image-id", "or Glance image"), text("image-ref", "or a container's image name"), text("flavor", "Nova's flavor"), text("cluster", "cluster"), text("node", "node"),
				amount("vcpus", "vcpus", "vCPUs of a container"), amount("memory", "memory_mb", "RAM of a container, MiB"), amount("disk", "disk_gb", "disk of a container, GiB"),
				{flag: "command", json: "command", about: "command of a container; several times, a word each", list: true}}},
		{name: "claim", plural: "claims", path: "/v1/ledger", about: "the ledger", columns: []string{"workload_id", "node", "consumer_id", "resources", "state"}, noShow: true},
		{name: "job", plural: "jobs", about: "background work", key: "ID", columns: []string{"id", "kind", "resource", "state", "attempt", "progress"},
			actions: []action{{name: "cancel", path: "cancel", about: "ask it to stop"}}},
	}
}

func (n noun) base() string {
	if n.path != "" {
		return n.path
	}
	return "/v1/" + n.plural
}

func (n noun) one(key string) string { return n.base() + "/" + url.PathEscape(key) }

func (a *app) noun(n noun) *cobra.Command {
	cmd := &cobra.Command{Use: n.name, Aliases: []string{n.plural}, Short: n.about}
	cmd.AddCommand(a.list(n))
	if !n.noShow {
		cmd.AddCommand(a.showOne(n))
	}
	if len(n.fields) > 0 {
		cmd.AddCommand(a.create(n))
	}
	if n.deletes {
		cmd.AddCommand(a.remove(n))
	}
	for _, act := range n.actions {
		cmd.AddCommand(a.act(n, act))
	}
	switch n.name {
	case "recipe":
		cmd.AddCommand(a.validateRecipe(), a.recipeSchema(), a.planRecipe(), a.lockRecipe())
	case "build":
		cmd.AddCommand(a.buildLog(), a.searchBuilds())
	case "job":
		cmd.AddCommand(a.jobLog())
	case "family":
		cmd.AddCommand(a.versions(), a.setFamily(), a.promote(), a.revoke(), a.unrevoke(), a.retention(),
			a.pin("pin", "Keep a version from retention"), a.pin("unpin", "Leave a version to retention again"))
	case "upgrade":
		cmd.AddCommand(a.planUpgrades())
	case "campaign":
		cmd.AddCommand(a.campaignVerbs()...)
	case "upgrade-policy":
		cmd.AddCommand(a.upgradePolicyVerbs()...)
	case "advisory":
		cmd.AddCommand(a.rank())
	case "image":
		cmd.AddCommand(a.adopt(), a.lint(), a.pending(), a.documents(), a.sbom(), a.provenance(), a.verify(), a.diff())
	}
	return cmd
}

func (a *app) list(n noun) *cobra.Command {
	var filters []string
	cmd := &cobra.Command{Use: "list", Short: "List " + n.plural, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		q, err := query(filters)
		if err != nil {
			return err
		}
		rows, err := client.ListAt[row](cmd.Context(), c, n.base(), n.plural, q)
		if err != nil {
			return err
		}
		return a.print(rows, n.columns)
	}}
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "name=value of a field; several times (all_projects=true for all projects)")
	return cmd
}

func (a *app) showOne(n noun) *cobra.Command {
	return &cobra.Command{Use: "show " + n.key, Short: "Show one " + n.name, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		var r row
		if err := c.Get(cmd.Context(), n.one(args[0]), &r); err != nil {
			return err
		}
		return a.show(r)
	}}
}

func (a *app) create(n noun) *cobra.Command {
	texts, lists, numbers := map[string]*string{}, map[string]*[]string{}, map[string]*int64{}
	truths := map[string]*bool{}
	var force bool
	cmd := &cobra.Command{Use: "create", Short: "Create a " + n.name, Args: cobra.NoArgs}
	if n.named {
		cmd.Use, cmd.Args = "create [NAME]", cobra.MaximumNArgs(1)
	}
	for _, f := range n.fields {
		switch {
		case f.truth:
			truths[f.flag] = cmd.Flags().Bool(f.flag, false, f.about)
		case f.list:
			lists[f.flag] = cmd.Flags().StringArray(f.flag, nil, f.about)
		case f.number:
			numbers[f.flag] = cmd.Flags().Int64(f.flag, 0, f.about)
		default:
			texts[f.flag] = cmd.Flags().String(f.flag, "", f.about)
		}
	}
	cmd.Flags().BoolVar(&a.noWait, "no-wait", false, "do not wait for the work to end")
	if n.name == "build" {
		cmd.Flags().BoolVar(&force, "force", false, "build even where nothing changed")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		body := row{}
		if len(args) == 1 {
			body["name"] = args[0]
		}
		if force {
			body["force"] = true
		}
		for _, f := range n.fields {
			if !cmd.Flags().Changed(f.flag) {
				continue
			}
			if f.truth {
				body[f.json] = *truths[f.flag]
				continue
			}
			if err := f.put(body, texts[f.flag], lists[f.flag], numbers[f.flag]); err != nil {
				return err
			}
		}
		return a.post(cmd, n, body)
	}
	return cmd
}

// put lays the flag's value into the request's body.
func (f field) put(body row, text *string, list *[]string, number *int64) error {
	switch {
	case f.object == "stores":
		stores := []row{}
		for _, s := range *list {
			words := strings.Split(s, ":")
			if len(words) < 2 || len(words) > 3 {
				return fmt.Errorf("--store %q: write NAME:directory or NAME:ceph:POOL", s)
			}
			store := row{"name": words[0], "type": words[1]}
			if len(words) == 3 {
				store["pool"] = words[2]
			}
			stores = append(stores, store)
		}
		body[f.json] = stores
	case f.list:
		body[f.json] = *list
	case f.number:
		inner, _ := body[f.object].(row)
		if inner == nil {
			inner = row{}
		}
		inner[f.json] = *number
		body[f.object] = inner
	default:
		body[f.json] = *text
	}
	return nil
}

func (a *app) post(cmd *cobra.Command, n noun, body row) error {
	c, err := a.connect(cmd.Context())
	if err != nil {
		return err
	}
	var made row
	if err := c.Post(cmd.Context(), n.base(), body, &made); err != nil {
		return err
	}
	// A warm-up makes several copies, each with its own job.
	if several, ok := made[n.plural].([]any); ok {
		rows := make([]row, 0, len(several))
		for _, one := range several {
			r, _ := one.(row)
			if r, err = a.follow(cmd.Context(), c, n.one(fmt.Sprint(r["id"])), r); err != nil {
				return err
			}
			rows = append(rows, r)
		}
		return a.print(rows, n.columns)
	}
	key := made["id"]
	if n.key == "NAME" {
		key = made["name"]
	}
	secret, shown := made["secret"] // no later answer has it
	if made, err = a.follow(cmd.Context(), c, n.one(fmt.Sprint(key)), made); err != nil {
		if shown {
			return fmt.Errorf("%w\nthe %s %v was made; its secret for webhooks is %v", err, n.name, key, secret)
		}
		return err
	}
	if shown {
		made["secret"] = secret
	}
	return a.show(made)
}

func (a *app) remove(n noun) *cobra.Command {
	cmd := &cobra.Command{Use: "delete " + n.key + "…", Short: "Delete " + n.plural, Args: cobra.MinimumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		for _, key := range args {
			var r row
			if err := c.Delete(cmd.Context(), n.one(key), &r); err != nil {
				return fmt.Errorf("%s %s: %w", n.name, key, err)
			}
			if _, err := a.follow(cmd.Context(), c, "", r); err != nil {
				return err
			}
		}
		return nil
	}}
	cmd.Flags().BoolVar(&a.noWait, "no-wait", false, "do not wait for the work to end")
	return cmd
}

func (a *app) act(n noun, act action) *cobra.Command {
	cmd := &cobra.Command{Use: act.name, Short: act.about}
	cmd.Args = cobra.NoArgs
	if !act.whole {
		cmd.Use, cmd.Args = act.name+" "+n.key, cobra.ExactArgs(1)
	}
	cmd.Flags().BoolVar(&a.noWait, "no-wait", false, "do not wait for the work to end")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		path, again := n.base()+"/"+act.path, ""
		if !act.whole {
			again = n.one(args[0])
			path = again + "/" + act.path
		}
		var r row
		if err := c.Post(cmd.Context(), path, row{}, &r); err != nil {
			return err
		}
		if act.still {
			return a.show(r)
		}
		if r, err = a.follow(cmd.Context(), c, again, r); err != nil {
			return err
		}
		return a.show(r)
	}
	return cmd
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
