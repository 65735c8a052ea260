import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;

/**
 * Sends requests with the JDK's HttpClient as it is, which offers HTTP/2 with each plain request.
 *
 * <p>Arguments: the server's URL, an API key, and the body of a chat. Each line of the output is an
 * answer: name, status, version and the body in Base64.
 */
public final class JdkClient {
    private static final Duration TIMEOUT = Duration.ofSeconds(60);
    private static final int AT_ONCE = 4;
    private static final int LARGE = 1 << 20;

    private final HttpClient client = HttpClient.newHttpClient();
    private final String url;
    private final String key;
    private final String chat;

    private JdkClient(String url, String key, String chat) {
        this.url = url;
        this.key = key;
        this.chat = chat;
    }

    public static void main(String[] arguments) throws Exception {
        new JdkClient(arguments[0], arguments[1], arguments[2]).run();
    }

    private void run() throws Exception {
        BodyPublisher whole = BodyPublishers.ofString(chat);
        // A new client offers the upgrade with its first request; here that is one with a body.
        print("first", client.send(post(whole), BodyHandlers.ofString()));
        print("again", client.send(post(whole), BodyHandlers.ofString()));
        print("models", client.send(request("/v1/models").build(), BodyHandlers.ofString()));
        byte[] bytes = chat.getBytes(StandardCharsets.UTF_8);
        BodyPublisher chunked = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(bytes));
        print("chunked", fresh().send(post(chunked), BodyHandlers.ofString()));
        HttpRequest careful = posting(whole).expectContinue(true).build();
        print("continue", fresh().send(careful, BodyHandlers.ofString()));
        BodyPublisher large = BodyPublishers.ofString(chat + " ".repeat(LARGE));
        print("large", fresh().send(post(large), BodyHandlers.ofString()));
        print("wrong", fresh().send(post(BodyPublishers.ofString("{}")), BodyHandlers.ofString()));
        stream();
        atOnce(whole);
    }

    private static HttpClient fresh() {
        return HttpClient.newHttpClient();
    }

    private HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(url + path)).timeout(TIMEOUT).header("Authorization", "Bearer " + key);
    }

    private HttpRequest.Builder posting(BodyPublisher body) {
        return request("/v1/chat/completions").header("Content-Type", "application/json").POST(body);
    }

    private HttpRequest post(BodyPublisher body) {
        return posting(body).build();
    }

    private void stream() throws Exception {
        String streamed = chat.substring(0, chat.length() - 1) + ",\"stream\":true}";
        HttpResponse<Stream<String>> answer =
                fresh().send(post(BodyPublishers.ofString(streamed)), BodyHandlers.ofLines());
        String lines = String.join("\n", (Iterable<String>) answer.body()::iterator);
        print("stream", answer, lines);
    }

    private void atOnce(BodyPublisher body) {
        HttpClient shared = fresh();
        List<CompletableFuture<HttpResponse<String>>> answers = new ArrayList<>();
        for (int number = 0; number < AT_ONCE; number++) {
            answers.add(shared.sendAsync(post(body), BodyHandlers.ofString()));
        }
        answers.forEach(answer -> print("at once", answer.join()));
    }

    private static void print(String name, HttpResponse<String> answer) {
        print(name, answer, answer.body());
    }

    private static void print(String name, HttpResponse<?> answer, String body) {
        String encoded = Base64.getEncoder().encodeToString(body.getBytes(StandardCharsets.UTF_8));
        System.out.println(String.join("\t", name, "" + answer.statusCode(), "" + answer.version(), encoded));
    }
}
