// Package config is Kiln's configuration: one typed option table, read from oslo style INI files.
//
// The structs below are the table: each field is one option with its name, default, help and rules in tags.
// Reading, checking, masking and the generated sample (`kiln-manage config sample`) all come from it.
package config

import "time"

// Config is every option of every program, by the file's sections.
type Config struct {
	Default       Default       `group:"DEFAULT"`
	Database      Database      `group:"database"`
	Keystone      Keystone      `group:"keystone_authtoken"`
	Notifications Notifications `group:"oslo_messaging_notifications"`
	Policy        Policy        `group:"oslo_policy"`
	API           API           `group:"api"`
	Engine        Engine        `group:"engine"`
	Worker        Worker        `group:"worker"`
	Build         Build         `group:"build"`
	Collect       Collect       `group:"collect"`
	Advisory      Advisory      `group:"advisory"`
	Upgrade       Upgrade       `group:"upgrade"`
	Life          Life          `group:"life"`
	Agent         Agent         `group:"agent"`
	Ceph          Ceph          `group:"ceph"`
}

// Default is the section [DEFAULT].
type Default struct {
	Debug        bool   `opt:"debug" default:"false" help:"Log at level DEBUG."`
	LogFile      string `opt:"log_file" help:"Write the log to this file; standard error where left out."`
	LogJSON      bool   `opt:"use_json" default:"false" help:"Write the log as JSON instead of oslo's line layout."`
	Host         string `opt:"host" help:"Name of this host in leases and messages; the machine's host name where left out."`
	StatePath    string `opt:"state_path" default:"/var/lib/kiln" help:"Folder for everything that the programs keep on disk."`
	MonitorBind  string `opt:"monitor_bind" help:"Address (host:port) on which engine, worker and agent serve /metrics and /healthcheck, without a token; none where left out. The API has them on its own port."`
	TransportURL string `opt:"transport_url" rule:"transport" secret:"true" default:"memory://" help:"Message bus: rabbit://user:password@host:5672/vhost, or memory:// where all runs in one process."`
}

// Database is the section [database].
type Database struct {
	Connection  string `opt:"connection" rule:"url" secret:"true" default:"sqlite:////var/lib/kiln/kiln.sqlite" help:"mysql+pymysql://user:password@host/kiln?charset=utf8, or sqlite:////path."`
	MaxPoolSize int    `opt:"max_pool_size" default:"20" min:"1" max:"1000" help:"Most open connections of one process."`
}

// Keystone is the section [keystone_authtoken]: who Kiln is towards Keystone and the other services.
type Keystone struct {
	AuthURL       string        `opt:"auth_url" rule:"url" required:"true" help:"Keystone's address."`
	PublicURI     string        `opt:"www_authenticate_uri" rule:"url" help:"Keystone's address for users, named in 401 answers; auth_url where left out."`
	Username      string        `opt:"username" default:"kiln" help:"Kiln's service user."`
	Password      string        `opt:"password" secret:"true" required:"true" help:"Its password."`
	UserDomain    string        `opt:"user_domain_name" default:"Default" help:"Its domain."`
	Project       string        `opt:"project_name" default:"service" help:"Its project."`
	ProjectDomain string        `opt:"project_domain_name" default:"Default" help:"The project's domain."`
	Region        string        `opt:"region_name" help:"Region whose endpoints are used; any where left out."`
	Interface     string        `opt:"interface" default:"public" choices:"public,internal,admin" help:"Kind of endpoint that is used."`
	CAFile        string        `opt:"cafile" help:"Certificates that HTTPS endpoints are checked with; the system's where left out."`
	TokenCache    time.Duration `opt:"token_cache_time" default:"300" help:"Seconds for which a validated token is believed without asking again."`
	Timeout       time.Duration `opt:"http_connect_timeout" default:"30" help:"Seconds that a call to another service may take."`
}

// Notifications is the section [oslo_messaging_notifications].
type Notifications struct {
	TransportURL string   `opt:"transport_url" rule:"transport" secret:"true" help:"Bus on which Nova and Glance notify; the one of [DEFAULT] where left out."`
	Topics       []string `opt:"topics" default:"notifications" help:"Topics of Glance's (and Nova's old) notifications."`
	NovaTopic    string   `opt:"nova_versioned_topic" default:"versioned_notifications" help:"Topic of Nova's versioned notifications."`
	Queue        string   `opt:"queue" default:"kiln.notifications" help:"Queue of the engines for these notifications; two Kilns on one bus need two names."`
}

// Policy is the section [oslo_policy].
type Policy struct {
	File string `opt:"policy_file" default:"/etc/kiln/policy.yaml" help:"Overrides of the policy's defaults; a missing file overrides nothing."`
}

// API is the section [api].
type API struct {
	BindHost string `opt:"bind_host" default:"127.0.0.1" help:"Address that kiln-api listens on."`
	BindPort int    `opt:"bind_port" default:"9790" min:"1" max:"65535" help:"Port that kiln-api listens on."`
	// What a repository may have that Kiln hosts.
	RepositoryMiB   int `opt:"max_repository_mib" default:"64" min:"1" max:"1024" help:"Most MiB of one hosted git repository; four times as much is taken unpacked."`
	RepositoryFiles int `opt:"max_repository_files" default:"5000" min:"1" max:"100000" help:"Most files of one commit of a hosted git repository."`
}

// Engine is the section [engine].
type Engine struct {
	Parallel     int           `opt:"parallel" default:"8" min:"1" max:"256" help:"Placements that one engine works on at once."`
	SyncInterval time.Duration `opt:"sync_interval" default:"60" help:"Seconds between two readings of nodes and of drift from Nova, Zun and Placement."`
	PlaceTimeout time.Duration `opt:"place_timeout" default:"300" help:"Seconds in which a server or container must become active."`

	TriggerInterval  time.Duration `opt:"trigger_interval" default:"30" help:"Seconds between two looks at what triggers builds: schedules, bases that moved, published fixes."`
	CampaignInterval time.Duration `opt:"campaign_interval" default:"5" help:"Seconds between two looks at campaigns and at standing upgrade policies."`
	PolicySettle     time.Duration `opt:"policy_settle" default:"600" help:"Seconds without a further advisory before a standing upgrade policy makes a campaign of those that appeared; four times as long at the most."`
	KeepLogsDays     int           `opt:"keep_logs_days" default:"90" min:"0" max:"36500" help:"Days that the log of a job is kept after its end; 0 keeps all."`
}

// Worker is the section [worker].
type Worker struct {
	Parallel       int           `opt:"parallel" default:"1" min:"1" max:"64" help:"Builds, upgrades and inspections that one worker runs at once."`
	WorkDir        string        `opt:"work_dir" help:"Folder for half-made disks; <state_path>/work where left out."`
	CacheDir       string        `opt:"cache_dir" help:"Folder for packages and images that may be fetched again; <state_path>/cache where left out."`
	ArchiveDir     string        `opt:"archive_dir" help:"Folder where the packages of locked recipes are kept for ever, several workers may share it; <cache_dir>/archive where left out."`
	Builders       []string      `opt:"builders" help:"Builders that this worker offers: native, packer, diskimage-builder; native, and packer where it is installed, where left out. Recipes for diskimage-builder run as root on the worker: it has to be named."`
	Labels         []string      `opt:"labels" help:"Further labels that recipes may ask for in builder.needs, for example gpu or zone=b. The worker gives itself arch, builder and disk_gib."`
	Accelerator    string        `opt:"accelerator" default:"tcg" choices:"tcg,kvm,auto" help:"How packer's virtual machine runs: tcg everywhere, kvm where /dev/kvm works, auto takes kvm where /dev/kvm can be opened."`
	Mirror         string        `opt:"mirror" rule:"url" help:"Debian mirror for builds; that of the machine's apt sources where left out."`
	SecurityMirror string        `opt:"security_mirror" rule:"url" help:"Mirror of the security suites; that of the machine's apt sources where left out."`
	LayersGiB      int           `opt:"layers_gib" default:"20" min:"1" max:"100000" help:"Space below cache_dir for the results of build steps; the longest unused ones go first."`
	LayersDays     int           `opt:"layers_days" default:"14" min:"1" max:"3650" help:"Days after which the result of a build step that nothing used is removed."`
	StepTime       time.Duration `opt:"step_time" default:"1800" help:"Seconds after which one command of a build step is stopped."`
	QuarantineTime time.Duration `opt:"quarantine_time" default:"1800" min:"60" max:"86400" help:"Seconds in which a quarantine boot must have upgraded the packages that need a running system, and be off."`
	Keyring        string        `opt:"keyring" default:"/usr/share/keyrings/debian-archive-keyring.gpg" help:"Keys that package indexes must be signed with."`
	SourceKey      string        `opt:"source_ssh_key" help:"Private SSH key that sources are read with; root's SSH agent where left out."`
	SourceHosts    string        `opt:"source_known_hosts" help:"Host keys that are trusted with it; those of root and of the machine where left out."`
	LocalSources   bool          `opt:"allow_local_sources" default:"false" help:"Allow file:// sources: every user who may create a source could then read any repository on this host."`
	Lease          time.Duration `opt:"lease" default:"30" help:"Seconds after which the job of a silent owner is given to another."`
}

// Build is the section [build]: what proves an image, and where it is booted before anybody sees it.
type Build struct {
	SigningKey  string   `opt:"signing_key" help:"PEM file of the private key (Ed25519 or ECDSA P-256) that workers sign statements about images with; without it images have none. kiln-manage proof key makes one."`
	TrustedKeys []string `opt:"trusted_keys" help:"PEM files of public keys that kiln-api names to those who check images; that of signing_key is added where this host has it."`

	TestBoot    string        `opt:"test_boot" default:"auto" choices:"auto,off,qemu,nova" help:"Where a built image is booted before anybody sees it: qemu (on the worker), nova (as a server in the quarantine project) or off; auto is qemu where qemu-system-x86_64 and genisoimage or xorriso are installed. Quarantine boots of upgrades are made at the same place."`
	Accelerator string        `opt:"accelerator" default:"tcg" choices:"tcg,kvm" help:"How QEMU runs test boots: tcg anywhere, kvm where the host has it."`
	BootTimeout time.Duration `opt:"boot_timeout" default:"600" help:"Seconds in which a booted image must be up; its tests have timeouts of their own."`
	BootMemory  int           `opt:"boot_memory" default:"1024" min:"128" max:"65536" help:"RAM of a test boot or a quarantine boot under QEMU in MiB."`
	BootCPUs    int           `opt:"boot_cpus" default:"2" min:"1" max:"64" help:"vCPUs of a test boot under QEMU."`
	Quarantine  string        `opt:"quarantine_project" help:"Project (id or name) in which test_boot = nova starts its servers; Kiln's user needs the admin or member role there."`
	QuarFlavor  string        `opt:"quarantine_flavor" help:"Flavor (id or name) of these servers. Its disk must hold the copy of an image that has a quarantine boot."`
	QuarNetwork string        `opt:"quarantine_network" help:"Network (id) of the servers of test boots; none where left out. Quarantine boots never have one."`
	QuarZone    string        `opt:"quarantine_zone" help:"Availability zone of these servers; Nova's default where left out."`
}

// Advisory is the section [advisory]: what is known of published fixes, and how often it is read again.
type Advisory struct {
	Interval        time.Duration `opt:"interval" default:"3600" help:"Seconds between two readings of the published fixes; 0 leaves it to kiln advisory refresh."`
	RunningInterval time.Duration `opt:"running_interval" default:"300" help:"Seconds between two counts of the servers and containers that run from each image, by which images are ranked; 0 counts none."`
	Tracker         string        `opt:"tracker" help:"File on the workers: the Debian security tracker's JSON (https://security-tracker.debian.org/tracker/data/json), for CVE numbers and urgencies."`
	OSV             []string      `opt:"osv" help:"Files on the workers: OSV records (.json), zips of them as osv.dev publishes for each ecosystem, or folders of both, for Debian, Ubuntu, Rocky Linux, AlmaLinux and Alpine."`
}

// Collect is the section [collect]: which images of the cloud Kiln reads, and how.
type Collect struct {
	All        bool          `opt:"all" default:"true" help:"Read every image of the cloud. With false, those that one of visibility, owners, shared_with and tags names. Kiln's own images are always read."`
	Visibility []string      `opt:"visibility" help:"Read images of these kinds: public, community, shared, private."`
	Owners     []string      `opt:"owners" help:"Read the images of these projects (ids)."`
	SharedWith []string      `opt:"shared_with" help:"Read the images that are shared with these projects (ids). Glance is asked for the members of each shared image that nothing else names."`
	Tags       []string      `opt:"tags" help:"Read the images that have one of these tags."`
	Interval   time.Duration `opt:"interval" default:"600" help:"Seconds between two sweeps over Glance's images, which find what notifications lost; 0 leaves it to the notifications."`
	Open       int           `opt:"open" default:"100" min:"1" max:"10000" help:"Inspections that may be open before a sweep starts no more of them."`
	Remote     bool          `opt:"remote" default:"true" help:"Workers read the parts of an image that they need from where it is; with false they fetch the whole image."`
	CephConf   string        `opt:"ceph_conf" default:"/etc/ceph/ceph.conf" help:"Ceph's configuration file on the workers, for ceph_user."`
	CephUser   string        `opt:"ceph_user" help:"cephx user without client. that may read Glance's pool (profile rbd-read-only): workers then read the images in it from Ceph. By HTTP where left out."`
}

// Upgrade is the section [upgrade].
type Upgrade struct {
	Suites []string `opt:"suites" default:"{codename},{codename}-updates,{codename}-security" help:"Suites that fixes come from; {codename} is the image's own release. Suites that end in -security are read from the security mirror."`
	RPM    string   `opt:"rpm_repositories" default:"/etc/kiln/rpm.repos.d" help:"Folder with the repositories of rpm systems: a file <ID>-<VERSION_ID>.repo (or its part before the dot: almalinux-9.repo) for each, with the sections of dnf's .repo files and baseurl, gpgkey=file:///… and repo_gpgcheck in them. Where it is missing, no rpm system is upgraded."`
}

// Life is the section [life]: what the engine does with versions that are superseded or revoked.
type Life struct {
	KeepVersions      int           `opt:"keep_versions" default:"5" min:"0" max:"100000" help:"Retention keeps so many of the newest versions of a family that says nothing else."`
	KeepDays          int           `opt:"keep_days" default:"30" min:"0" max:"100000" help:"Retention keeps versions that are younger than so many days, in a family that says nothing else."`
	RetentionInterval time.Duration `opt:"retention_interval" default:"3600" help:"Seconds between two runs of retention; 0 runs it on request only."`
	DeactivateRevoked bool          `opt:"deactivate_revoked" default:"true" help:"Deactivate the images of revoked versions in Glance, so that nobody but an administrator starts from them."`
}

// Agent is the section [agent].
type Agent struct {
	Node          string `opt:"node" help:"Name of this node as Nova's hypervisor list has it; [DEFAULT] host where left out."`
	InstancesPath string `opt:"instances_path" default:"/var/lib/nova/instances" help:"Nova's instances folder on this node."`
	StoreDir      string `opt:"store_dir" help:"Folder of the cluster's directory stores; <state_path>/store where left out."`
	MinFreeGiB    int    `opt:"min_free_gib" default:"2" min:"0" max:"100000" help:"Space that a copy must leave free on the disk."`
}

// Ceph is the section [ceph]: how an agent reaches the Ceph stores of its cluster.
type Ceph struct {
	Conf string `opt:"conf" default:"/etc/ceph/ceph.conf" help:"Ceph's configuration file."`
	User string `opt:"user" help:"cephx user without client., for example cluster-a."`
}
